"""JPEGs: damaged ones are refused, and harmless oddities cost no pixel."""

import base64
import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from data import jpeg
from data.jpeg_segments import scan_data

END = b"\xff\xd9"

# 48 x 32 pixels of noise that Pillow cannot write: arithmetic coding, and luma of three times the chroma's width.
ARITHMETIC = base64.b85decode(
    b"|JeWA07C#24i6F!4HOa(5*HN|7#=bq9vmDVJuEIHGD$#8OGiLPMNnFEVo+6WRz*f+h-Gbedx3(1PGF6fjD41Ket~@d$p8xo03ZM`"
    b"0Ra&J|I7de01yxb|Jncu0RaF2KLE>{m@m>o^fZ}rl#<WJ)xGCyt6G}w#!d-kb0y8sT)m%|j2%4D@DEwW;QN$5Yx)whC829AnQx1*"
    b"I(DYP!#y%kRlBO?Y=mH7p0+%^1g9FEUAVRS1sU9g%g$Q&zE*=x`aI;ly}rq!3rTVIxs%klQURrg$z1x$h`HztKw<rt?CE0O=y>4T"
    b"gzjp@Lpc^2x%DdJ!Zq5OTLh%0h1UY@Coi1L_b*^6q}Z|l0OwUpFL>M7Y*aHS2s#vMQngmc74Adz3rRgE7&qDBy0C3u3LhSp`{Qhf"
    b"g8siuOm}7*o%Zj)W1gZ3By?TblK%jyB8--o9nN-&RhO+j1p)C?tBr86*t+Xnl$PS>$dGkNqS<LlRdtYayEJ<2UKov==h<ys9Vmwk"
    b"(S6pDv+Q*J=6pHBowCk?7M`Dkw;}y#*s~2Gjq06jTW8hClS03R=t*-sKKQ0J;3guFn~022G9cg~2hV~bcNNTKWCV2X(#+l`$Zp4{"
    b")TojlpFjT2<otEmN@)lBBkV#vEnlDoR4;k@Y~T=xHR4%u1v*h6rvMG5GXzg*h(7hOY=2Ce!w)ZS;-t&>rWI;-1y-Sn$B{PMnPsGN"
    b"hn|(6=^d%CsR>1i>Coo;f-#Nq8`f!WOd^$a=LsfJ?bZQB*os7HeSe8tkcxQi!x2w+Lu{eNOY3Ib=YLxN00X_PB~mc&FVN1K%s9(X"
    b"@RK6Ki5T;Q!-JXWnM#-o`BRka=Gzw!v0-WmQYUBID@@s|*#Fr"
)
ODD_SAMPLING = base64.b85decode(
    b"|JeWA07C!}3k(hn3J?wr4iXU%6BsBO7#0>7F(V}%C^|DeJUKHsH$X^SPC!IgMK?H5ZBbWWVrOV)K233XaAbH~WoKjm+W<oW5fTy@"
    b"6&NoX8ZTo)I6`A%V`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1uV`F1u|G)qd2ml}eFarTG00I#K0}%oL"
    b"!~h=v009L70RaI40RR9100000009C61O)~M2nh-c|HJ^b5C8%J0|NpC0|f;H1ONa5eE|Xk00a>Q5+N}`1`|<X2O@D4GJ%ny2qQwV"
    b"!4*=`@FX*0a)Jp878e*98YLztC@Cs5H8wXmIXXi`MMg(RNlH^xRaRG6Sz2RcWoBn+X=-zHb#`}nd3u9{g@%WSiHeewl$Dm3n3<ZQ"
    b"qok##r>Lo_va__cwzs&sy28W6#m2|T$;#5x)YaD4*xB0Q;^XAy=I7|?>hbdP^!4`l`1$((!~h=w00RL50RaI40RaI300000009C6"
    b"1O)~M2nh-c|HJ^b5dZ=K0t5sD1P28K1ONd7cK`tb0}%uTAu$FLK~V=`aT6jkfd~{rk)g4{2_rL7@D*Zm(FztMG~p%j7Z@2DCMPH<"
    b"Dm6AYI5|2)L`6nNNJ&alR8>}2SXo+QWMyV&XlZJ5bai%jczJq)gM@{Khlq)al9QB`mY0~BnxdnmrKYE-sj9NGw6(UkxVgH*!^FkL"
    b"$H>Xb($mz{*4NnC+T!En<>u$;>FV<H^!4`l`1$((+5ij#0RRFK0}%i}0IT81fhck9(x2jXFX9Lz-lRnWf)|_;N$1e}dSlkM?83vP"
    b"+`F+ru(>Q4uHHK20!QEt5_&Mc$3NlN*|wZ_$>Rd8c)QJQO2QXG<)meizrB((pQZ=->8Gay4x2ojfRQoa5=H^^AfLdB9km5#ZsiXS"
    b"MnGOT^{N_>L*kpXi<CwkGuHsOUvg`2Q6e7<T$WsiP`rY9Cys#k$ER8(otr~$PBvbDr~Csy!?FF+K&txCXYpM81=<h*ah`*&KR>2E"
    b"m9;pMFAQEu1Eg*uAQO+F>*_KnlhK59v-2C_*zgzS{{ZV(Ij1{Z-^n}f-0%EDY2$&MclGzJ-xN&oXb{_|8J<y`kT@Ll&phL`IVE9h"
    b"C1L&?i<RTw9@T+rUgKH1mD!n^Qb8b&Gr;!a6|>@pDdFg0&J44t;Evh<0PB8Tdl$+M9LZm)p`?E1(n&G*BQ5LDXTB?%@cOf`X2E9X"
    b"HKF4I{&t-R5(O&F_m0wjoia1muQe|~T@5W4ZMCeI3=Y_ku>;$h=5z%t*~T{<{{WoUw~JJWtXF#~mcU-k>)W>-Pk&=c>wBTAt7(7f"
    b"{{X|E|Je"
)


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """640 x 480 pixels, smooth with some noise: a block takes about as many bytes as in a photograph."""
    generator = np.random.default_rng(5)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), np.uint8)).resize((640, 480), 3)
    noise = generator.integers(-12, 13, (480, 640, 3))
    return Image.fromarray((np.asarray(coarse).astype(int) + noise).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", **({"quality": 90} | options))
    return buffer.getvalue()


KINDS = {
    "baseline": {},
    "optimized": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 4},
    "CMYK": {},
    "RGB": {"keep_rgb": True},
}


def content_of(photograph: Image.Image, kind: str) -> bytes:
    return encode(photograph.convert("CMYK") if kind == "CMYK" else photograph, **KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_jpeg_is_refused_with_and_without_an_end_marker(photograph, kind):
    content = content_of(photograph, kind)
    jpeg.decode(content)
    for kept in (0.1, 0.5, 0.9, 0.99):
        cut = content[: int(kept * len(content))].rstrip(b"\xff")
        for damaged in (cut, cut + END, cut.ljust(len(content), b"\0"), cut.ljust(len(content), b"\0") + END):
            with pytest.raises(ValueError, match=r"JPEG"):
                jpeg.decode(damaged)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [512, 4096])
def test_zeros_in_place_of_data_are_refused(photograph, kind, size):
    content = content_of(photograph, kind)
    start = content.index(b"\xff\xda") + 20
    for position in range(start, len(content) - size, (len(content) - start) // 20):
        with pytest.raises(ValueError, match="JPEG"):
            jpeg.decode(content[:position] + bytes(size) + content[position + size :])


@pytest.mark.parametrize("kind", ["baseline", "optimized", "restarts"])
def test_missing_and_foreign_data_is_refused(photograph, kind):
    content = content_of(photograph, kind)
    middle = len(content) // 2
    for new in (b"", b"\xff" * 4096, np.random.default_rng(0).bytes(4096)):
        with pytest.raises(ValueError, match="JPEG"):
            jpeg.decode(content[:middle] + new + content[middle + 4096 :])


@pytest.mark.parametrize("kind", ["baseline", "progressive", "restarts"])
@pytest.mark.parametrize("junk", [b"junk" * 40, bytes(2), bytes(5000), b"<?xpacket?> end of file " * 9], ids=len)
def test_text_and_padding_around_the_end_marker_cost_nothing(photograph, kind, junk):
    content = content_of(photograph, kind)
    expected = jpeg.decode(content)
    np.testing.assert_array_equal(jpeg.decode(content + junk), expected)
    np.testing.assert_array_equal(jpeg.decode(content[:-2] + junk + END), expected)


def test_data_left_before_the_end_marker_is_refused(photograph):
    content = content_of(photograph, "baseline")
    frame = content.index(b"\xff\xc0")
    lower = content[: frame + 5] + struct.pack(">H", 240) + content[frame + 7 :]
    taller = content[: frame + 5] + struct.pack(">H", 960) + content[frame + 7 :]
    for damaged in (lower, taller, content[:-2] + np.random.default_rng(0).bytes(500).replace(b"\xff", b"") + END):
        with pytest.raises(ValueError, match=r"extraneous|premature"):
            jpeg.decode(damaged)


@pytest.mark.parametrize("image", ["black", "white", "half"])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}], ids=str)
def test_a_flat_picture_is_no_damage(image, options):
    pixels = np.full((400, 600, 3), 255 * (image == "white"), np.uint8)
    if image == "half":
        pixels[200:] = np.random.default_rng(0).integers(0, 256, (200, 600, 3))
    content = encode(Image.fromarray(pixels), **options)
    np.testing.assert_array_equal(jpeg.decode(content), np.asarray(Image.open(BytesIO(content))))


def test_a_wrong_number_of_one_restart_marker_costs_nothing_but_other_damage_is_refused(photograph):
    content = content_of(photograph, "restarts")
    markers = [at for at in range(len(content) - 1) if content[at] == 0xFF and 0xD0 <= content[at + 1] <= 0xD7]
    one, two, last = markers[2], markers[3], markers[2 + 4]
    wrong = content[: one + 1] + bytes([0xD0 + (content[one + 1] + 4) % 8]) + content[one + 2 :]
    np.testing.assert_array_equal(jpeg.decode(wrong), jpeg.decode(content))
    swapped = content[:one] + content[two : markers[4]] + content[one:two] + content[markers[4] :]
    for damaged in (
        content[:one] + content[one + 2 :],
        content[:one] + content[two:],
        content[:one] + content[last:],
        swapped,
    ):
        with pytest.raises(ValueError, match="JPEG"):
            jpeg.decode(damaged)


def test_harmless_warnings_about_headers_cost_nothing(photograph):
    content = content_of(photograph, "baseline")
    expected = jpeg.decode(content)
    scan, data = content.index(b"\xff\xda"), next(scan_data(content))[0]
    revision = content[:11] + b"\5" + content[12:]  # a JFIF of the future
    adobe = content[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\7" + content[20:]
    parameters = content[: data - 3] + b"\0\0\0" + content[data:]
    junk = content[:scan] + b"\xff\xfe\0\4hi" + b"junk" * 5 + content[scan:]
    for odd in (revision, adobe, parameters, junk):
        np.testing.assert_array_equal(jpeg.decode(odd), expected)


def test_arithmetic_coded_data_that_ends_early_is_refused():
    start, end = next(scan_data(ARITHMETIC))
    assert jpeg.decode(ARITHMETIC).shape == (32, 48, 3)
    for kept in (start + 50, (start + end) // 2, end - 30):
        with pytest.raises(ValueError, match="JPEG"):
            jpeg.decode(ARITHMETIC[:kept] + END)


def test_unusual_sampling_factors_are_checked_without_warnings():
    start, end = next(scan_data(ODD_SAMPLING))
    assert jpeg.decode(ODD_SAMPLING) is None  # Pillow's turn
    middle = (start + end) // 2
    for damaged in (ODD_SAMPLING[:middle] + END, ODD_SAMPLING[:middle], ODD_SAMPLING[:-2] + ODD_SAMPLING[start:]):
        with pytest.raises((ValueError, OSError)):
            jpeg.decode(damaged)


def test_a_smaller_scale_is_the_picture_and_is_checked_as_well(photograph):
    content = content_of(photograph, "baseline")
    small = jpeg.decode(content, (60, 80))
    assert small.shape == (60, 80, 3)
    whole = np.asarray(photograph.resize((80, 60), Image.Resampling.BOX)).astype(int)
    assert np.abs(small - whole).mean() < 4
    with pytest.raises(ValueError, match="premature"):
        jpeg.decode(content[: len(content) // 2] + END, (60, 80))
