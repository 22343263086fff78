"""The published benchmarks as task lists, in their order (EXPERIMENTS.md, Task lists).

VTAB, VTAB-1k and the 124 tasks have names that `evolution.data.vtab` knows; all others are names of
TensorFlow Datasets. `private:` marks a task that no other task may start from.
"""

CMATERDB = ("cmaterdb/bangla", "cmaterdb/devanagari", "private:cmaterdb/telugu")

CHARS = (
    "emnist/digits",
    "emnist/letters",
    "kmnist",
    "mnist",
    "omniglot",
    "cmaterdb/bangla",
    "cmaterdb/devanagari",
    "cmaterdb/telugu",
)

VDD = tuple(
    f"visual_domain_decathlon/{name}"
    for name in (
        "imagenet12",
        "svhn",
        "cifar100",
        "gtsrb",
        "daimlerpedcls",
        "omniglot",
        "ucf101",
        "aircraft",
        "dtd",
        "vgg-flowers",
    )
)

VIT = ("imagenet2012", "cifar100", "cifar10")

# The published table of results leaves out five: clevr/count_cylinders, the first two of kitti and
# the first two of smallnorb.
VTAB_FULL = (
    "caltech101",
    "dtd",
    "oxford_flowers102",
    "oxford_iiit_pet",
    "sun397",
    "svhn_cropped",
    "patch_camelyon",
    "eurosat",
    "resisc45",
    "diabetic_retinopathy_detection/btgraham-300",
    "clevr/count_cylinders",
    "clevr/count_all",
    "clevr/closest_object_distance",
    "dmlab",
    "dsprites/label_x_position",
    "dsprites/label_orientation",
    "kitti/closest_object_distance",
    "kitti/count_vehicles",
    "kitti/closest_vehicle_distance",
    "smallnorb/label_category",
    "smallnorb/label_lighting",
    "smallnorb/label_azimuth",
    "smallnorb/label_elevation",
)

# cifar100 and cifar10 follow caltech101, as in the published list.
VTAB_1K = tuple(f"{name}/1k" for name in (VTAB_FULL[0], "cifar100", "cifar10", *VTAB_FULL[1:]))

# The system of 69 tasks (arXiv 2205.12755): one benchmark after the other.
MU2NET_69 = VIT + VTAB_FULL + VDD + CHARS + VTAB_1K

# What the later systems add to VTAB (arXiv 2209.07326, 2209.14745, 2302.02721).
CATALOG_76 = (
    "beans",
    "binary_alpha_digits",
    "caltech_birds2010",
    "caltech_birds2011",
    "cars196",
    "cassava",
    "cats_vs_dogs",
    "cifar10",
    "cifar100",
    "citrus_leaves",
    "cmaterdb/bangla",
    "cmaterdb/devanagari",
    "cmaterdb/telugu",
    "colorectal_histology",
    "controlled_noisy_web_labels/mini_imagenet_red",
    "controlled_noisy_web_labels/mini_imagenet_blue",
    "curated_breast_imaging_ddsm/patches",
    "cycle_gan/apple2orange",
    "cycle_gan/summer2winter_yosemite",
    "cycle_gan/horse2zebra",
    "cycle_gan/monet2photo",
    "cycle_gan/cezanne2photo",
    "cycle_gan/ukiyoe2photo",
    "cycle_gan/vangogh2photo",
    "cycle_gan/maps",
    "cycle_gan/cityscapes",
    "cycle_gan/facades",
    "cycle_gan/iphone2dslr_flower",
    "deep_weeds",
    "domainnet/real",
    "domainnet/painting",
    "domainnet/clipart",
    "domainnet/quickdraw",
    "domainnet/infograph",
    "domainnet/sketch",
    "emnist/digits",
    "emnist/letters",
    "food101",
    "horses_or_humans",
    "i_naturalist2017",
    "i_naturalist2018",
    "imagenet2012",
    "imagenet_a",
    "imagenet_lt",
    "imagenet_r",
    "imagenet_sketch",
    "imagenette",
    "imagewang",
    "kmnist",
    "malaria",
    "mnist",
    "omniglot",
    "pet_finder",
    "places365_small",
    "plant_village",
    "plantae_k",
    "quickdraw_bitmap",
    "rock_paper_scissors",
    "siscore/rotation",
    "siscore/size",
    "siscore/location",
    "stanford_dogs",
    "stanford_online_products",
    "stl10",
    "tf_flowers",
    "uc_merced",
    *VDD,
)

ALL_124 = CATALOG_76 + VTAB_FULL + VTAB_1K
