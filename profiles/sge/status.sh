#!/bin/sh
# Prints running, success or failed for the job whose number is given, as cluster-generic wants it.
if qstat -j "$1" >/dev/null 2>&1; then
  # A job in state E waits for ever
  qstat | awk -v job="$1" '$1 == job && $5 ~ /E/ { bad = 1 } END { print bad ? "failed" : "running" }'
  exit
fi
# The accounting file is written some seconds after a job has ended
for _ in 1 2 3 4 5 6; do
  if ended=$(qacct -j "$1" 2>/dev/null); then
    echo "$ended" |
      awk '/^(failed|exit_status) / && $2 != 0 { bad = 1 } END { print bad ? "failed" : "success" }'
    exit
  fi
  sleep 5
done
echo failed
