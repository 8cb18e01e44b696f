"""fid, kid and cmmd against second implementations, their bias, and the statistics file."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch

from autotune.scoring.metrics import METRICS, FeatureStats, ReferenceSet, cmmd, fid, kid
from autotune.scoring.metrics import mmd as mmd_module
from xslim.errors import ConfigError


def features(n, d=16, seed=0, shift=0.0, scale=1.0):
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(d, d)) / np.sqrt(d)
    return generator.normal(size=(n, d)) @ mixing * scale + shift


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.5, 1.0), (0.0, 2.0), (1.0, 0.3)])
def test_fid_is_the_one_with_a_matrix_square_root(shift, scale):
    x, y = features(300), features(400, seed=1, shift=shift, scale=scale)
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(c1 @ c2)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root.real)
    assert fid(x, y) == pytest.approx(expected, rel=1e-8)


def test_fid_of_known_normals():
    a = FeatureStats(np.zeros(2), np.diag([4.0, 9.0]), 10)
    b = FeatureStats(np.array([3.0, 4.0]), np.diag([1.0, 1.0]), 10)
    assert fid(a, b) == pytest.approx(25 + (2 - 1) ** 2 + (3 - 1) ** 2)


def test_fid_of_fewer_samples_than_dimensions_is_symmetric_and_finite():
    x, y = features(20, d=64), features(50, d=64, seed=1)
    assert fid(x, y) == pytest.approx(fid(y, x), rel=1e-10)
    assert fid(x, x) == pytest.approx(0, abs=1e-9)
    # Second form: with the centred rows X and Y, tr (C1 C2)^½ is the sum of singular values of X Yᵀ.
    xc, yc = x - x.mean(0), y - y.mean(0)
    cross = np.linalg.svd(xc @ yc.T, compute_uv=False).sum() / np.sqrt(19 * 49)
    shift = ((x.mean(0) - y.mean(0)) ** 2).sum()
    expected = shift + (xc**2).sum() / 19 + (yc**2).sum() / 49 - 2 * cross
    assert fid(x, y) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("n", "m"), [(24, 40), (24, 300), (300, 24)])
def test_fid_of_few_samples_is_scipys(n, m):
    """Where SciPy's root of a singular product still works, to the 1e-4 that is asked for."""
    d = 128
    x, y = features(n, d=d), features(m, d=d, seed=1, shift=0.1)
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(c1 @ c2)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root.real)
    assert fid(x, y) == pytest.approx(expected, rel=1e-4)


def test_fid_forms_no_square_matrix_of_many_dimensions():
    x, y = features(6, d=2).repeat(20_000, 1), features(9, d=2, seed=1).repeat(20_000, 1)
    assert np.isfinite(fid(x, y)), "a [40000, 40000] matrix takes 12 GB"


def test_fid_is_never_negative_and_survives_constant_features():
    for seed in range(20):
        x = features(100, seed=seed)
        assert 0 <= fid(x, x.copy()) < 1e-9
    constant = np.ones((10, 4))
    assert fid(constant, constant) == 0
    assert fid(constant, constant + 2) == pytest.approx(16)


def test_fid_of_few_samples_is_biased_upwards_and_kid_is_not():
    """Same distribution: the true distance is 0, and a small fid is a fact about n, not about pictures."""
    reference = features(20_000, d=64, seed=1000)
    stats = FeatureStats.from_features(reference)
    sizes = (32, 128, 512, 2048)
    fids = {n: [fid(features(n, d=64, seed=s), stats) for s in range(8)] for n in sizes}
    means = [np.mean(fids[n]) for n in sizes]
    assert all(a > 2 * b for a, b in pairwise(means)), means
    assert min(fids[32]) > 10 * max(fids[2048])
    kids = np.array([kid(features(128, d=64, seed=s), reference[:2000]) for s in range(12)])
    assert abs(kids.mean()) < 3 * kids.std(ddof=1) / np.sqrt(len(kids))
    assert kids.min() < 0 < kids.max()
    assert METRICS["fid"].warn_below_n == 2000
    assert METRICS["kid"].warn_below_n is None


def naive_kid(x, y):
    def k(u, v):
        return (sum(a * b for a, b in zip(u, v, strict=True)) / len(u) + 1) ** 3

    def within(z):
        pairs = [(i, j) for i in range(len(z)) for j in range(len(z)) if i != j]
        return sum(k(z[i], z[j]) for i, j in pairs) / len(pairs)

    between = sum(k(u, v) for u in x for v in y) / (len(x) * len(y))
    return within(x) + within(y) - 2 * between


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_kid_is_the_double_loop(shift):
    x, y = features(14, d=5), features(19, d=5, seed=1, shift=shift)
    assert kid(x, y) == pytest.approx(naive_kid(x.tolist(), y.tolist()), rel=1e-10)


def test_kid_is_torchmetrics_polynomial_mmd():
    oracle = pytest.importorskip("torchmetrics.image.kid")
    x, y = features(60), features(60, seed=1, shift=0.3)  # theirs needs equal numbers
    expected = oracle.poly_mmd(torch.from_numpy(x), torch.from_numpy(y))
    assert kid(x, y) == pytest.approx(float(expected), rel=1e-8)


@pytest.mark.parametrize("metric", [kid, cmmd])
def test_kernels_do_not_depend_on_the_block(metric, monkeypatch):
    x, y = features(100), features(73, seed=1, shift=0.2)
    whole = metric(x, y)
    monkeypatch.setattr(mmd_module, "BLOCK", 16)
    assert metric(x, y) == pytest.approx(whole, rel=1e-9)


def naive_cmmd(x, y):
    """The published form in float64 with every constant in place, and the unbiased estimate."""
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))

    def k(u, v):
        return np.exp(-(((u[:, None] - v[None]) ** 2).sum(-1)) / (2 * 10.0**2))

    m, n = len(x), len(y)
    within = (k(x, x).sum() - m) / (m * (m - 1)) + (k(y, y).sum() - n) / (n * (n - 1))
    return 1000 * (within - 2 * k(x, y).mean())


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_cmmd_is_the_published_form(shift):
    x, y = features(14, d=5), features(19, d=5, seed=1, shift=shift)
    assert cmmd(x, y) == pytest.approx(naive_cmmd(x, y), abs=1e-9)
    assert cmmd(x * 7, y) == pytest.approx(cmmd(x, y), abs=1e-12), "lengths do not matter"


def test_cmmd_of_zero_features_is_a_number():
    x = features(14, d=5)
    x[3] = 0
    assert np.isfinite(cmmd(x, features(19, d=5, seed=1)))
    assert cmmd(np.zeros((4, 5)), np.zeros((6, 5))) == 0


@pytest.mark.parametrize("metric", [fid, kid, cmmd])
def test_a_reference_set_gives_what_its_rows_give_and_computes_its_part_once(metric, monkeypatch):
    x, y = features(40), features(60, seed=1, shift=0.2)
    reference = ReferenceSet(torch.from_numpy(y))
    first = metric(x, reference)
    assert first == pytest.approx(metric(x, y), rel=1e-12)
    within, qr = mmd_module._within_sum, np.linalg.qr
    sizes = []
    monkeypatch.setattr(mmd_module, "_within_sum", lambda x, k: (sizes.append(len(x)), within(x, k))[1])
    monkeypatch.setattr(np.linalg, "qr", lambda a, **k: (sizes.append(len(a)), qr(a, **k))[1])
    assert metric(x, reference) == first
    assert sizes == [40], "only the candidate's part is computed"


def test_kid_of_equal_sets_is_below_0_by_the_missing_diagonal():
    x = features(50)
    assert -1 < kid(x, x) < 0


def test_half_precision_tensors_are_accepted():
    x, y = features(200), features(200, seed=1, shift=0.5)
    half = [torch.from_numpy(z).half() for z in (x, y)]
    brain = [torch.from_numpy(z).bfloat16() for z in (x, y)]
    for metric in (fid, kid):
        assert metric(*half) == pytest.approx(metric(x, y), rel=0.01)
        assert metric(*brain) == pytest.approx(metric(x, y), rel=0.05)
        assert metric(half[0].numpy(), half[1]) == metric(*half)


@pytest.mark.parametrize("metric", [fid, kid, cmmd])
@pytest.mark.parametrize(
    "bad", [np.zeros(4), np.zeros((1, 4)), np.zeros((5, 0)), np.full((5, 4), np.nan), np.full((5, 4), np.inf)]
)
def test_wrong_features_are_refused(metric, bad):
    with pytest.raises(ConfigError):
        metric(bad, features(5, d=4))
    with pytest.raises(ConfigError):
        metric(features(5, d=4), bad)


def test_stats_are_numpys_and_survive_a_file(tmp_path):
    x = features(40)
    stats = FeatureStats.from_features(torch.from_numpy(x))
    np.testing.assert_allclose(stats.mean, x.mean(0))
    np.testing.assert_allclose(stats.covariance, np.cov(x, rowvar=False))
    path = tmp_path / "new" / "reference.stats"  # written as named, no .npz appended
    stats.save(path)
    loaded = FeatureStats.load(path)
    np.testing.assert_array_equal(loaded.mean, stats.mean)
    np.testing.assert_array_equal(loaded.covariance, stats.covariance)
    assert loaded.n == 40
    assert type(loaded.n) is int
    y = features(30, seed=1)
    assert fid(y, loaded) == pytest.approx(fid(y, x), rel=1e-9)
    assert fid(FeatureStats.from_features(y), x) == pytest.approx(fid(y, x), rel=1e-9)


def test_a_file_that_is_no_statistics_is_refused_by_name(tmp_path):
    path, plain = tmp_path / "stats.npz", tmp_path / "plain.npy"
    np.save(plain, np.zeros(3))
    for write in (
        lambda: path.write_bytes(b"not a zip"),
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(b"PK\x03\x04 cut short"),
        lambda: np.savez(path, mean=np.zeros(3)),
        lambda: np.savez(path, mean=np.zeros(3), covariance=np.zeros((2, 2)), n=5),
        lambda: np.savez(path, mean=np.zeros(3), covariance=np.full((3, 3), np.nan), n=5),
        lambda: np.savez(path, mean=np.zeros(3), covariance=np.eye(3), n=1),
        lambda: np.savez(path, mean=np.array(["a"]), covariance=np.eye(1), n=2),
        lambda: np.savez(path, mean=np.zeros(3), covariance=np.eye(3), n=np.zeros(2)),
        lambda: path.write_bytes(plain.read_bytes()),
    ):
        write()
        with pytest.raises(ConfigError, match=r"stats\.npz"):
            FeatureStats.load(path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        FeatureStats.load(tmp_path / "none.npz")


def test_statistics_in_a_file_serve_fid_alone(tmp_path):
    x, y = features(300), features(40, seed=1)
    ours, usual = tmp_path / "ours.npz", tmp_path / "pytorch-fid.npz"
    FeatureStats.from_features(x).save(ours)
    np.savez(usual, mu=x.mean(0), sigma=np.cov(x, rowvar=False))
    for path in (ours, usual):
        reference = ReferenceSet.load(str(path), "metrics.reference_stats")
        assert (reference.rows, reference.dimensions) == (None, 16)
        assert fid(y, reference) == pytest.approx(fid(y, x), rel=1e-9)
        for metric in (kid, cmmd):
            with pytest.raises(ConfigError, match="a kernel needs the features"):
                metric(y, reference)
