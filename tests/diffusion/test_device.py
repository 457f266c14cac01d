"""How many CPU threads torch uses, thread by thread."""

from concurrent.futures import ThreadPoolExecutor

import torch

from services.diffusion.device import num_threads, use_threads, work_beside


def test_who_works_beside_leaves_the_others_their_threads() -> None:
    before = torch.get_num_threads()
    with ThreadPoolExecutor(1) as drawing, ThreadPoolExecutor(1, initializer=work_beside) as reading:
        drawing.submit(use_threads, 3).result()
        assert reading.submit(num_threads).result() == 1
        reading.submit(lambda: torch.randn(300, 300) @ torch.randn(300, 300)).result()
        assert drawing.submit(num_threads).result() == 3, "also where the reader came before its first operation"
    assert torch.get_num_threads() == before
