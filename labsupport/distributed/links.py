"""`--link 100mbit,5ms --link-rank 2=50mbit`: which link each rank gets."""

from __future__ import annotations

from labsupport.distributed.link_speed import LinkSpeed, parse_link
from labsupport.errors import LabError

UNLIMITED = LinkSpeed(bytes_per_s=None)


def links_for(
    nproc: int, link: str | None, link_ranks: list[str]
) -> list[LinkSpeed] | None:
    """Each rank's link; None when the cell asks for none.

    Args:
        link: the value of --link: every rank's.
        link_ranks: the values of --link-rank, as "2=50mbit": one rank's instead.

    Raises:
        LabError: a link that cannot be read, a rank that does not exist or is
            named twice.
    """
    if link is None and not link_ranks:
        return None
    common = UNLIMITED if link is None else parse_link(link)
    own: dict[int, LinkSpeed] = {}
    for text in link_ranks:
        name, equals, speed = text.partition("=")
        if not equals or not name.strip().isdecimal():
            raise LabError(
                f"--link-rank {text}: write RANK=LINK, as in --link-rank 2=50mbit."
            )
        rank = int(name)
        if rank >= nproc:
            raise LabError(
                f"--link-rank {text}: with --nproc {nproc} ranks are 0 to {nproc - 1}."
            )
        if rank in own:
            raise LabError(f"--link-rank names rank {rank} twice: give it one link.")
        own[rank] = parse_link(speed)
    return [own.get(rank, common) for rank in range(nproc)]
