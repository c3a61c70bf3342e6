"""What several tests of pages in a browser share."""


def watch(page) -> tuple[list[str], list[str]]:
    """Return two lists that fill up: what the page logs, raises or asks the user, and the addresses it requests."""
    faults, requests = [], []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    page.on("request", lambda asked: requests.append(asked.url))
    return faults, requests
