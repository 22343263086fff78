"""The published weights that experiments start from: files of AugReg (arXiv 2106.10270).

Each is downloaded on first use, unless --root names another root.
"""

_AUGREG = "augreg:https://storage.googleapis.com/vit_models/augreg/"
TI_16 = f"{_AUGREG}Ti_16-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0.npz"
B_16 = f"{_AUGREG}B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz"
L_16 = f"{_AUGREG}L_16-i21k-300ep-lr_0.001-aug_medium2-wd_0.03-do_0.0-sd_0.1.npz"
