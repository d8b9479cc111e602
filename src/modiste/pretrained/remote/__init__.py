"""Code copied into ``format=transformers`` exports; needs NumPy, Pillow, timm, torch, transformers."""
