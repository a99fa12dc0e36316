"""Where the polynomials of Winograd's algorithm are evaluated; free of Numba, so that tables are built without it.

F(m x m, 3 x 3) computes an m x m tile of outputs from a tile of m + 2 inputs squared, at m + 2 points, one of which is
infinity (Lavin and Gray, arXiv 1509.09308). F(2) takes 0 and +-1. F(4) takes 0, +-5/8 and +-3/2 instead of the usual 0,
+-1 and +-2: these keep the transformed values of like size, and the error of float32 at about 0.6 of what it would be.
All constants below are exact in float32.
"""

from __future__ import annotations

NEAR, FAR = 0.625, 1.5  # F(4)'s points are 0, +-NEAR, +-FAR and infinity
NEAR2, FAR2 = NEAR * NEAR, FAR * FAR
NEAR3, FAR3 = NEAR * NEAR2, FAR * FAR2
BOTH2, SUM2 = NEAR2 * FAR2, NEAR2 + FAR2
