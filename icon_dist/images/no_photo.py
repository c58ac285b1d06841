"""What a file that is no photo of a kind that is read looks like."""

from __future__ import annotations

READ = "JPEG, PNG, WebP, BMP and TIFF are read"


def what_else(data: bytes) -> str:
    """What a file that is no photo looks like, and what to do."""
    start = data[:200].lstrip()
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if not data:
        return "an empty file; copy or download it again"
    if not data[:4096].strip(b"\0"):
        return "only zeros, a broken copy or download; get it again"
    if start[:1] in (b"<", b"{"):
        return "a web page or text, not an image; the download was probably an error page, get it again"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the image; run git lfs pull"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "the TIFF is cut off or damaged; replace the file"
    if data[:4] in (b"II+\0", b"MM\0+"):
        return "a BigTIFF; save it as plain TIFF or PNG"
    if data[:4] == b"GIF8":
        return "a GIF; save the frame that you need as PNG or JPEG"
    if brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis"):
        return f"{'an AVIF' if brand[:2] == b'av' else 'a HEIC'} image; convert it to JPEG or PNG"
    if brand:
        return "a video; save the frame that you need as PNG or JPEG"
    return f"not an image of a kind that is read ({READ}); convert or replace the file"
