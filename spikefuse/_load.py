import pathlib

import torch


def load():
    torch.ops.load_library(str(pathlib.Path(__file__).parent / "_C.abi3.so"))
