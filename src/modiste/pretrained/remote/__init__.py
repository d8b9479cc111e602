"""What `format=transformers` puts into its folder. It needs torch, timm, transformers and Pillow, and not modiste."""
