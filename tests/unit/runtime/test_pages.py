"""What a person finds who opens the server in a browser."""

import re
from typing import Any

import httpx


def test_the_document_describes_endpoints_that_are_there(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()

    assert document["openapi"] == "3.1.0"
    for path, operations in document["paths"].items():
        for method in operations:
            assert http.request(method, path, content=b"{}").status_code in (200, 400), path


def test_the_example_of_the_document_is_answered(models: Any, shared: Any) -> None:
    for folder in (models.scores(), models.two_inputs(), models.echo("BYTES"), models.echo("BOOL")):
        url = shared(folder).url
        content = httpx.get(f"{url}/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]
        answer = httpx.post(f"{url}/predict", json=content["application/json"]["schema"]["example"])
        assert (answer.status_code, len(answer.json()["predictions"])) == (200, 1)


def test_programs_are_told_at_the_root_that_the_server_lives_as_kserve_has_it(http: httpx.Client) -> None:
    assert http.get("/").json() == {"status": "alive"}


def test_the_page_needs_nothing_from_elsewhere(http: httpx.Client) -> None:
    page = http.get("/", headers={"accept": "text/html,*/*"})

    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", page.text)
    assert all(http.get(f"/{path}").status_code == 200 for path in re.findall(r'href="([^"]+)"', page.text))
