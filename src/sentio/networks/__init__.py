"""Networks by name: a new network is a file here and a row in this table."""

#: name -> module in this folder
MEMBERS = {
    "ast": "vit",
    "bc-resnet": "bc_resnet",
    "cnn10": "panns",
    "cnn6": "panns",
    "cp-mobile": "cp_mobile",
    "dcase2024-baseline": "cp_mobile",
    "deit": "vit",
    "mobilevit": "mobilevit",
    "passt": "vit",
    "phinet": "phinet",
    "phinet-1d": "phinet_1d",
    "phinet-icassp": "phinet",
    "phinet-teacher": "phinet_teacher",
    "resnet8": "resnet",
    "resnet20": "resnet",
    "resnet50": "resnet",
    "sound-resnet": "sound_resnet",
    "sp4asc": "sp4asc",
    "tap-cnn": "tap_cnn",
    "tiny-cnn": "tiny_cnn",
    "vit-large": "vit",
    "vit-medium": "vit",
    "vit-small": "vit",
}
