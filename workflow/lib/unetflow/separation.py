"""The line of background that divides touching objects in the training target.

References
----------
.. [1] Ronneberger et al. 2015, DOI 10.1007/978-3-319-24574-4_28, section 3: the separation border.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unetflow.store import NOT_ANNOTATED


def separate(classes: NDArray[np.uint8], instances: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Classes with a background line of one pixel between touching instances.

    A pixel becomes background when a neighbour that comes after it along one of the axes belongs
    to another object: of two touching pixels one is taken, so the line is one pixel wide.

    Parameters
    ----------
    classes : uint8 array
        Semantic labels.
    instances : integer array of the same shape
        Object ids, 0 = background.
    """
    result = classes.copy()
    for axis in range(instances.ndim):
        before = (*(slice(None),) * axis, slice(None, -1))
        after = (*(slice(None),) * axis, slice(1, None))
        touching = (
            (instances[before] != instances[after])
            & (instances[before] > 0)
            & (instances[after] > 0)
        )
        result[before][touching & (result[before] != NOT_ANNOTATED)] = 0
    return result
