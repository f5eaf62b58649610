"""What `make` runs that is no part of the product: the wheels and the generated pages of the documentation."""
