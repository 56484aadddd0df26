"""The frozen plan of a product: recipe, layers, tiles and keys."""
