"""What the plotting scripts share: matplotlib that draws SVG in which text stays text, and colours."""

import matplotlib
matplotlib.use('svg')
import matplotlib.pyplot as plt  # noqa: E402  (after the choice of what draws)
import matplotlib.ticker  # noqa: E402

plt.rcParams['svg.fonttype'] = 'none'
plt.rcParams['svg.hashsalt'] = 'lowbit'  # the same names in every run
plt.rcParams['font.family'] = 'sans-serif'
ticker = matplotlib.ticker

# Colours that colour-blind readers can tell apart (Okabe and Ito).
COLORS = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000', '#8C6D31']
