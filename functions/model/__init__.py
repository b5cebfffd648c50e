"""The nouns of the field as values: acquisition, geometry, volume, transform, parameters, errors."""
