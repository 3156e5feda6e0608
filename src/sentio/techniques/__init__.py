"""Training techniques by name: a new one is a file here and a row in this table."""

#: name -> module in this folder
MEMBERS = {
    "classifier-wise": "classifier_wise",
    "copycat": "copycat",
    "curriculum": "curriculum",
    "distillation": "distillation",
    "layer-wise": "layer_wise",
    "end-to-end": "end_to_end",
}
