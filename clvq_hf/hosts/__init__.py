"""Find, read, edit and resume the model whose concepts are studied."""
