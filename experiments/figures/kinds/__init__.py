"""One file for each kind of figure. Its name is the kind's, and the first line of its docstring explains it.

It defines `draw(asked: Asked) -> Iterator[Drawing]`. `TAKES_IMAGES = True` in it lets the user name images.
"""
