"""Exits by name: a new branch is a file here and a row in this table."""

#: name -> module in this folder
MEMBERS = {
    "pooled-linear": "pooled_linear",
    "cnn-ee": "cnn_ee",
    "sl-vit": "sl_vit",
}
