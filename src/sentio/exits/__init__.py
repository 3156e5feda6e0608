"""Exits by name: a new branch is a file here and a row in this table."""

#: name -> module in this folder
MEMBERS = {
    "pooled-linear": "pooled_linear",
    "av-sl-vit": "av_sl_vit",
    "bag-of-features": "bag_of_features",
    "cnn-add-ee": "cnn_tokens_ee",
    "cnn-ee": "cnn_ee",
    "cnn-ignore-ee": "cnn_tokens_ee",
    "cnn-project-ee": "cnn_tokens_ee",
    "density-ee": "density_ee",
    "linear-regressor": "linear_regressor",
    "mlp-ee": "mlp_ee",
    "mlp-mixer-ee": "mlp_mixer_ee",
    "raw": "raw",
    "resmlp-ee": "resmlp_ee",
    "sl-vit": "sl_vit",
    "vit-ee": "vit_ee",
}
