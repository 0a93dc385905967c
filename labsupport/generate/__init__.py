"""Writing many completions at once, quickly: what chain of thought and RL live from.

`decoder` runs a model one token at a time and keeps keys and values, `draws` gives
every row random numbers of its own, `choose` takes a token by them, and `completions`
puts these together as `generate`.
"""

from labsupport.generate.completions import Completions, generate
from labsupport.generate.decoder import Decoder
from labsupport.generate.draws import row_seeds, uniforms

__all__ = ["Completions", "Decoder", "generate", "row_seeds", "uniforms"]
