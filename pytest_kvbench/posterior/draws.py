"""The posterior's draws, by two samplers of different kinds."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from pytest_kvbench.errors import MissingPrerequisiteError
from pytest_kvbench.posterior.curves import Curves
from pytest_kvbench.posterior.model import DRAWS, Data, model
from pytest_kvbench.posterior.shape import loss, share_broken

if TYPE_CHECKING:
    import arviz as az

Sampler = Literal["nuts", "slice"]
Draw = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Sampling:
    """How draws are made.

    Attributes:
        sampler: `nuts`, the no-U-turn sampler (Hoffman & Gelman 2014) as nutpie implements it, or
            `slice`, elliptical slices of one block of unknowns after another (Murray, Adams &
            MacKay 2010). The second has no gradient, no step size and nothing that it adapts:
            where both agree, neither was stuck.
        draws: kept, a chain.
        tune: thrown away before, a chain.
        target_accept: of nuts.
        thin: one sweep in so many is kept; of slice.
    """

    sampler: Sampler = "nuts"
    seed: int = 1
    chains: int = 4
    draws: int = 700
    tune: int = 500
    target_accept: float = 0.95
    thin: int = 4


def sample(data: Curves, how: Sampling, *, progress: bool = False) -> az.InferenceData:
    """Draws of `DRAWS`.

    Returns:
        The same draws for the same data, settings, versions and processor; nothing in it tells when
        it was made.

    Raises:
        MissingPrerequisiteError: the extra `bayes` is not installed.
    """
    try:
        import arviz
        import numba  # noqa: F401  # `density` and `slices` are compiled
        import nutpie  # noqa: F401
    except ImportError as error:
        raise MissingPrerequisiteError(
            f"a posterior needs {error.name}, which is not installed",
            "pip install 'pytest-kvbench[bayes]'",
        ) from error
    arrays = model(data)
    made = _nuts(arrays, how, progress) if how.sampler == "nuts" else _slices(arrays, how)
    trace: az.InferenceData = arviz.from_dict(**made)
    for group in trace.groups():
        trace[group].attrs = {}
    return trace


def _nuts(data: Data, how: Sampling, progress: bool) -> Mapping[str, Any]:
    import nutpie
    from nutpie.compiled_pyfunc import from_pyfunc

    from pytest_kvbench.posterior.density import log_density

    shapes = {name: value.shape for name, value in _draw(np.zeros(data.size), data=data).items()}
    compiled = from_pyfunc(
        data.size,
        lambda: partial(log_density, d=data),
        lambda *_seeds: partial(_draw, data=data),
        [np.dtype(float)] * len(shapes),
        list(shapes.values()),
        list(shapes),
    )
    found = nutpie.sample(
        compiled,
        draws=how.draws,
        tune=how.tune,
        chains=how.chains,
        seed=how.seed,
        target_accept=how.target_accept,
        save_warmup=False,
        progress_bar=progress,
    )
    drawn = {name: found.posterior[name].to_numpy() for name in DRAWS}
    return {
        "posterior": drawn,
        "sample_stats": {"diverging": found.sample_stats["diverging"].to_numpy()},
    }


def _slices(data: Data, how: Sampling) -> Mapping[str, Any]:
    from pytest_kvbench.posterior.slices import chain

    seeds = np.random.SeedSequence(how.seed).generate_state(how.chains)
    with ThreadPoolExecutor() as pool:  # a thread has its own generator, and no lock is held
        chains = pool.map(lambda s: chain(int(s), how.tune, how.draws, how.thin, data), seeds)
    drawn = [[_draw(z, data=data) for z in vectors] for vectors in chains]
    return {"posterior": {n: np.array([[d[n] for d in one] for one in drawn]) for n in DRAWS}}


def _draw(z: NDArray[np.float64], *, data: Data) -> Draw:
    """What is kept of a vector of unknowns."""
    from pytest_kvbench.posterior.density import natural, parts

    vector = np.array(z)
    n, v = natural(vector, data), parts(vector, data)
    shared = -0.5 * sum((part**2).sum() for part in (v.each, v.luck, v.where, v.slope, v.deep))
    mu, s, depth = (v[:, None] for v in (n.mu, n.s, n.depth))
    a, f1, f0 = (v[data.base][:, None] for v in (n.a, n.f1, n.f0))
    losses = loss(share_broken(data.octaves, mu, s, depth), a, f1, f0, n.h[data.task][:, None])
    kept = (n.a, n.f1, n.f0, n.h, np.array(n.rho), n.mu, n.s, n.depth, losses, np.array(shared))
    return dict(zip(DRAWS, kept, strict=True))


def flat(trace: az.InferenceData, name: str) -> NDArray[np.float64]:
    """All draws of a quantity, chains one after another, shape (draws, ...)."""
    values: NDArray[np.float64] = trace.posterior[name].to_numpy()
    return values.reshape(-1, *values.shape[2:])
