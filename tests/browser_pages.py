"""What several tests of pages in a browser share."""


def watch(page) -> tuple[list[str], list[str]]:
    """Return two lists that fill up: what the page logs, raises or asks the user, and the addresses it requests."""
    faults, requests = [], []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    page.on("request", lambda asked: requests.append(asked.url))
    return faults, requests


def wait_until(page, expression: str) -> None:
    """Wait for a condition; playwright's own wait_for_function needs `eval`, which the page's policy forbids."""
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"still not: {expression}")
