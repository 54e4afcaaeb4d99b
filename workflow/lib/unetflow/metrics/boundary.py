"""Borders between objects, made comparable before they are scored.

References
----------
.. [1] Arganda-Carreras et al. 2015, DOI 10.3389/fnana.2015.00142: the scores of the ISBI 2012
   challenge depended on the width of borders; thinning the prediction removes that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import expand_labels


def thin(labels: NDArray[np.integer]) -> NDArray[np.integer]:
    """Labels grown over the background until they touch, so that border width does not count.

    Every background pixel takes the label of the nearest object (Euclidean distance between pixel
    centres; which one wins a tie is not defined). Made for `contingency.v_rand` and
    `contingency.v_info`: thin the prediction, leave the truth as it is, since those scores do not
    look at true background. The challenge's own script leaves a line of one pixel between objects,
    whose pixels it then scores as objects of one pixel; here no line is left to be scored.

    Parameters
    ----------
    labels : integer array with 2 or 3 axes
        Object ids, 0 = background. A stack that was segmented plane by plane is thinned plane by
        plane: in 3D an object would grow into its neighbour planes.

    Returns
    -------
    integer array of the same shape and dtype
        Without 0, except that an image without any object comes back empty. The input is not
        changed. Working memory is about 35 bytes a pixel in 2D and 50 in 3D.

    References
    ----------
    [1]

    Examples
    --------
    >>> thin(np.array([[1, 1, 0, 0, 0, 2, 2]]))
    array([[1, 1, 1, 1, 2, 2, 2]])
    """
    grown: NDArray[np.integer] = expand_labels(labels, distance=np.inf)
    return grown
