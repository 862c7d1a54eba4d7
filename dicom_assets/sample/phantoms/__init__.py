"""The pictures of the sample: synthetic anatomy drawn from formulas with numpy.

Decided here: shapes, tissues and findings. Not decided here: headers, files, or which study
shows what. Every picture is a function of its geometry and a random generator, nothing else.
"""
