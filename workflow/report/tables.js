// Tables: sorted by the heads of their columns, and those that have a form filtered by text and kind.
const collate = new Intl.Collator("en", {numeric: true}).compare;
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const key = cell => {
    const text = cell.dataset.value ?? cell.textContent.trim();
    return {text, number: Number(text)};
  };
  heads.forEach((head, column) => {
    if (head.classList.contains("unsorted")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = [...body.rows].map(row => [key(row.cells[column]), row]);
      keyed.sort(([left], [right]) => {
        if (left.text === "" || right.text === "") return (left.text === "") - (right.text === "");
        const words = isNaN(left.number) || isNaN(right.number);
        const order = words ? collate(left.text, right.text) : left.number - right.number;
        return down ? -order : order;
      });
      body.replaceChildren(...keyed.map(([, row]) => row));
    });
  });
}
for (const form of document.querySelectorAll("form.filter")) {
  const rows = [...document.getElementById(form.dataset.table).tBodies[0].rows];
  const texts = rows.map(row => row.textContent.toLowerCase());
  const show = () => {
    const words = form.elements.text.value.toLowerCase().split(/\s+/), kind = form.elements.kind.value;
    rows.forEach((row, number) => {
      const meant = kind === "" || row.dataset.kinds.split(" ").includes(kind);
      row.hidden = !(meant && words.every(word => texts[number].includes(word)));
    });
    const shown = rows.filter(row => !row.hidden).length;
    form.querySelector("output").value = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  show(); // browsers keep what was typed into a page that is loaded again
}
