"""Tasks by name: a new task is a file here and a row in this table."""

#: name -> module in this folder
MEMBERS = {
    "classification": "classification",
    "counting": "counting",
    "embedding": "embedding",
}
