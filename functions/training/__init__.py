"""From a recipe file to a model file: what a network is trained on, how it is judged, how it learns."""
