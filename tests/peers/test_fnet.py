"""FNet beside transformers' Fourier transform: the same function."""

from parity import FLOAT64, assert_parity, draw

from helpers import peers


def test_the_fourier_transform_is_the_same():
    config = peers.imported("transformers").FNetConfig(hidden_size=15)
    peer = peers.imported("transformers.models.fnet.modeling_fnet").FNetBasicFourierTransform(config)
    attention = peers.ours(peers.case("fnet", peers.shape(13, batch=2, heads=3, dim=5), dtype="float64"))

    def theirs(v):
        [out] = peer(peers.joined(v))
        return peers.split(out, 3)

    assert_parity(lambda v: attention(v, v, v), theirs, *draw(1, 2, 3, 13, 5), tolerance=FLOAT64)
