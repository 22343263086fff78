"""The published benchmarks as task lists, in their order (EXPERIMENTS.md, Task lists).

VTAB, VTAB-1k and the 124 tasks have names that `evolution.data.vtab` knows, the stream and the
comparison those of `evolution.data.small_tasks`; all others are names of TensorFlow Datasets.
`private:` marks a task that no other task may start from.
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

# Small tasks that resemble one another; evolution/data/small_tasks.py has what each is made of.
STREAM = tuple(
    f"stream/{name}"
    for name in (
        "bengali",
        "gujarati",
        "gurmukhi",
        "hiragana",
        "kannada",
        "katakana",
        "korean",
        "malayalam",
        "manipuri",
        "oriya",
        "sanskrit",
        "tibetan",
        "digits-bangla",
        "digits-devanagari",
        "digits-telugu",
        "digits-mnist",
        "letters",
        "land",
        "plants",
        "sites",
    )
)

# To compare methods: characters, satellite pictures, and drawn ones. What is smaller comes first: a
# task whose whole data set an earlier one has seen would be none of few pictures.
COMPARE_FULL = tuple(
    f"compare/{name}{size}"
    for size in ("-tenth", "")
    for name in (
        "bangla", "devanagari", "mnist", "letters", "plants", "sites", "shapes", "textures",
    )
)  # fmt: skip
COMPARE = tuple(
    f"compare/{name}"
    for name in (
        "telugu-tenth", "fields-tenth", "land-tenth", "marks-tenth",
        "bangla-later", "mnist-later", "digits", "covers",
    )
)  # fmt: skip
