"""The smallest complete plugin: the mean of item embeddings, and one contrast between views.

It is what the kit tests itself on, and a partner for parts that come alone.
"""
