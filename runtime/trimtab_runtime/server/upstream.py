"""Another HTTP server as this one asks it: its answer as httptools reads it."""

from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser


class Answered:
    """An answer that is being read. `feed` raises httptools' HttpParserError for what is no HTTP."""

    def __init__(self) -> None:
        self.headers: Final[list[tuple[str, str]]] = []
        self.is_whole = self.keeps_connection = False  # whether another request may follow on it
        self._body: list[bytes] = []
        self._parser = HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Read some of it."""
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as error:
            raise HttpParserError("it changes to another protocol") from error

    @property
    def status(self) -> int:
        """Return its status code."""
        return int(self._parser.get_status_code())

    @property
    def body(self) -> bytes:
        """Return what has come of its body."""
        return b"".join(self._body)

    def header(self, name: str) -> str | None:
        """Return a header, by its name in lower case."""
        return next((value for found, value in self.headers if found == name), None)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self.is_whole = True
        self.keeps_connection = self._parser.should_keep_alive()  # which the parser knows just now
