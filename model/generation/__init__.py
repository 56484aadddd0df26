"""Any to any: the decoder, how tokens are drawn, and what becomes of them."""
