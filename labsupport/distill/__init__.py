"""Distillation: a student learns from what a teacher would say.

`loss` compares a student's scores with a teacher's, token by token, `top_k` sends few
scores in place of all, `traces` keeps what a teacher wrote and scored, and `compute`
counts what each way of learning costs.
"""

from labsupport.distill.compute import Compute
from labsupport.distill.loss import FORWARD, JSD, REVERSE, DistillationLoss
from labsupport.distill.top_k import TopK, top_k_of
from labsupport.distill.traces import Traces, write_traces

__all__ = [
    "FORWARD",
    "JSD",
    "REVERSE",
    "Compute",
    "DistillationLoss",
    "TopK",
    "Traces",
    "top_k_of",
    "write_traces",
]
