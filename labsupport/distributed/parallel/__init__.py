"""A GPT cut over ranks by a layout, on torch's own engine.

    layout = Layout(shard=2, tensor=2)
    model = apply(GPT(config), layout, build_mesh(layout, "cpu"))
    loss, gradients = model.loss_and_gradients(tokens_BT, targets_BT)

Every layout computes what one process computes: the same loss, the same gradients.
They differ in where a sum is made, in what a rank holds, and in what it sends.

    layout.py      Layout: how many ranks share which work; which ones are legal
    schedules.py   the order of forwards and backwards in a pipeline
    mesh.py        the ranks as a grid with an axis for each kind of sharing
    heads.py       queries, keys and values as three matrices, to be cut by heads
    tensor.py      a block's matrices cut over ranks
    stages.py      a model cut between blocks
    data.py        copies (DDP) and shards (FSDP2) of what is left
    experts.py     experts on different ranks
    engine.py      apply: all of it together, and one step
    whole.py       tensors of one process, put together from all ranks
    optimizer.py   AdamW and clipping over whatever lies where
    reshard.py     from one layout to another in the middle of a training
    memory.py      bytes that a rank holds, counted and by formula
    expected.py    collectives that a step needs, by formula
    predict.py     a step's time, by a fitted model
    synchronise.py ways to sum gradients over copies of a model

Shape suffixes in all of them: B sequences, T tokens, D model width, V vocabulary.
"""

# Before anything of torch.distributed that brings triton along: see kernels.
import kernels  # noqa: F401
