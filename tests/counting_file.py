"""A file that shows how much of it was read."""

import io


class CountingFile(io.BytesIO):
    """Counts the bytes read from it in `bytes_read`."""

    bytes_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data
