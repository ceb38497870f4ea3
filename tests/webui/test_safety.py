"""What others can do to the server: programs and web pages that ask it for what only its own page may ask for."""

from __future__ import annotations

import functools
import http.server
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser

from lib_transfer.webui.shell.caller import same_origin
from tests.waiting import HANG
from tests.webui import models
from tests.webui.conftest import FORGE, Server
from tests.webui.driver import Tab

ELSEWHERE = "did not come from this page"


@pytest.fixture(scope="module")
def running(serve: Callable[..., Server], checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server with one LoRA in the trash, which every attack tries to delete for good."""
    folder = tmp_path_factory.mktemp("target")
    (folder / "Lora").mkdir()
    (folder / "Stable-diffusion").symlink_to(checkpoints)
    models.lora(folder, "mine")
    return serve(folder)


@pytest.fixture
def target(running: Server) -> Server:
    """The server, as it is before each attack."""
    throw(running)
    return running


def throw(server: Server) -> Path:
    thrown = server.loras / "trash" / "1" / "thrown.safetensors.trash"
    thrown.parent.mkdir(parents=True, exist_ok=True)
    thrown.write_bytes(b"once a transferred LoRA")
    return thrown


def config(server: Server) -> dict[str, Any]:
    with urllib.request.urlopen(server.url + "config", timeout=HANG) as reply:
        return json.load(reply)


def events(page: dict[str, Any]) -> dict[str, tuple[int, dict[str, Any]]]:
    """The first event of each of our controls: its number and what gradio says of it."""
    names = {component["id"]: str(component["props"].get("elem_id") or "") for component in page["components"]}
    found: dict[str, tuple[int, dict[str, Any]]] = {}
    for place, event in enumerate(page["dependencies"]):
        for source in event["targets"]:
            name = names.get(source[0] if isinstance(source, list) else source, "")
            found.setdefault(name.removeprefix("transfer_lora_"), (event.get("id", place), event))
    return found


def token(page: dict[str, Any]) -> str:
    return next(c["props"]["value"] for c in page["components"] if c["props"].get("elem_id") == "transfer_lora_token")


def ask(server: Server, event: str, data: list[Any], headers: dict[str, str] | None = None, **more: Any) -> str:
    """What an event answers, as a text."""
    number, _ = events(config(server))[event]
    body = json.dumps({"fn_index": number, "data": data, "session_hash": "abc", **more}).encode()
    request = urllib.request.Request(
        server.url + "run/predict", body, {"Content-Type": "application/json", **(headers or {})}
    )
    with urllib.request.urlopen(request, timeout=HANG) as reply:
        return reply.read().decode()


def host(server: Server) -> str:
    return urlsplit(server.url).netloc


def test_no_event_of_ours_has_a_name_and_every_one_asks_for_the_token(target: Server) -> None:
    page = config(target)
    names = {component["id"]: str(component["props"].get("elem_id") or "") for component in page["components"]}
    for event in page["dependencies"]:
        assert event["api_name"] is False
        assert names[event["inputs"][0]].endswith("token")
    with urllib.request.urlopen(target.url + "info", timeout=HANG) as reply:
        assert json.load(reply)["named_endpoints"] == {}


@pytest.mark.parametrize(
    ("given", "headers", "said"),
    [
        ("", {}, "Reload the page."),
        (None, {}, "Reload the page."),
        (["x"], {}, "Reload the page."),
        ("x" * 43, {}, "Reload the page."),
        ("right", {"Origin": "http://evil.example"}, ELSEWHERE),
        ("right", {"Origin": "null"}, ELSEWHERE),
        ("right", {"Origin": "http://127.0.0.1:1"}, ELSEWHERE),
        ("right", {"Sec-Fetch-Site": "cross-site"}, ELSEWHERE),
        ("right", {"Sec-Fetch-Site": "same-site", "X-Forwarded-Host": "evil.example"}, ELSEWHERE),
    ],
)
def test_a_request_from_elsewhere_is_refused_in_a_sentence(
    target: Server, given: Any, headers: dict[str, str], said: str
) -> None:
    before = target.files()
    sent = token(config(target)) if given == "right" else given
    answer = ask(target, "empty_trash", [sent], headers)
    assert said in answer
    assert "Nothing was done" in answer
    assert target.files() == before


def test_headers_in_the_body_of_a_request_count_for_nothing(target: Server) -> None:
    forged = {"headers": {"host": "x", "origin": "http://x"}, "url": "http://x"}
    before, sent = target.files(), token(config(target))
    try:
        assert ELSEWHERE in ask(target, "empty_trash", [sent], {"Origin": "http://evil.example"}, request=forged)
    except urllib.error.HTTPError as error:
        assert FORGE
        assert error.code == 422
    assert target.files() == before


@pytest.mark.parametrize(
    ("headers", "same"),
    [
        ({}, True),
        ({"host": "a:7860", "origin": "http://a:7860"}, True),
        ({"host": "A", "origin": "https://a:443"}, True),
        ({"host": "127.0.0.1:7860", "origin": "https://b", "x-forwarded-host": "b, c"}, True),
        ({"host": "127.0.0.1:7860", "origin": "https://b", "sec-fetch-site": "same-origin"}, True),
        ({"host": "127.0.0.1:7860", "origin": "http://localhost:7860"}, False),
        ({"host": "a:7860", "origin": "http://a"}, False),
        ({"host": "", "origin": "null"}, False),
        ({"host": "a", "origin": "http://a", "sec-fetch-site": "cross-site"}, False),
        ({"host": "a", "sec-fetch-site": "none"}, False),
    ],
)
def test_the_origin_is_compared_with_the_name_that_was_called(headers: dict[str, str], same: bool) -> None:
    assert same_origin(headers) is same


@pytest.fixture
def other_page() -> Iterator[int]:
    """The port of a server with an empty page on it."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>another page</title>")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


ATTACK = """async ([url, calls]) => {
    const said = [];
    for (const [path, body, type] of calls) {
        const how = {method: "POST", credentials: "include"};
        // Bytes are sent without a content type, so without asking first whether this page may.
        if (type) [how.body, how.headers] = [body, {"Content-Type": type}];
        else [how.body, how.mode] = [new TextEncoder().encode(body), "no-cors"];
        try { said.push((await (await fetch(url + path, how)).text()).length); } catch { said.push("failed"); }
        if (path !== "queue/join") continue;
        // In gradio 4, a stream tells what came of it.
        const signal = AbortSignal.timeout(5000);
        try { await (await fetch(url + "queue/data?session_hash=abc", {signal: signal})).text(); } catch {}
    }
    const event = JSON.parse(calls[0][1]);
    await new Promise((over) => {
        const socket = new WebSocket(url.replace("http", "ws") + "queue/join");
        socket.onmessage = (message) => {
            const asked = JSON.parse(message.data).msg;
            if (asked === "send_hash") socket.send(JSON.stringify({session_hash: "abc", fn_index: event.fn_index}));
            if (asked === "send_data") socket.send(calls[0][1]);
            if (asked === "process_completed") over();
        };
        socket.onerror = socket.onclose = over;
    });
    return said;
}"""


def test_a_page_of_another_origin_can_do_nothing(target: Server, browser: Browser, other_page: int) -> None:
    page = config(target)
    sent, before = token(page), target.files()
    number, _ = events(page)["empty_trash"]
    # It would know even the token.
    body = json.dumps({"fn_index": number, "data": [sent], "session_hash": "abc", "event_data": None})
    paths = ["run/predict", "api/predict", "run/predict/", "queue/join", "queue/push"]
    for name in ("empty_trash", f"empty_trash_{number}", str(number), "predict", "remove_copies"):
        paths += [f"call/{name}", f"run/{name}", f"api/{name}"]
    calls = [(path, body, kind) for kind in ("", "application/json") for path in paths]
    context = browser.new_context()
    try:
        for name in ("127.0.0.1", "localhost"):
            attacker = context.new_page()
            attacker.goto(f"http://{name}:{other_page}/")
            # From gradio 4 on, a page of this machine may even read the answers.
            said = attacker.evaluate(ATTACK, [target.url, calls])
            assert len(said) == len(calls)
            assert said[0] != "failed"
            attacker.evaluate("async (url) => { await fetch(url, {mode: 'no-cors'}); }", target.url)
            assert target.files() == before
    finally:
        context.close()


def test_the_page_itself_may_do_it(
    serve: Callable[..., Server], checkpoints: Path, tmp_path: Path, window: Callable[..., Tab]
) -> None:
    """And so may a request without a browser that has the token; a page from before a restart has to be reloaded."""
    (tmp_path / "Lora").mkdir()
    (tmp_path / "Stable-diffusion").symlink_to(checkpoints)
    models.lora(tmp_path, "mine")
    server = serve(tmp_path)
    tab = window(server.url).ready()
    tab.page.reload(wait_until="domcontentloaded")
    tab.ready().choose("mine", target=models.TUNED)
    assert tab.run("transfer") == "Done: 1 written."

    server.process.kill()
    server.process.wait(HANG)
    server = serve(tmp_path, server)
    before = server.files()
    tab.press("transfer")
    tab.part("refused").get_by_text("the server was started again after this page was opened").wait_for()
    assert "Reload the page." in tab.part("refused").inner_text()
    assert server.files() == before
    tab.page.reload(wait_until="domcontentloaded")
    # What was chosen is there again.
    tab.ready().part("adapters").locator(".token").wait_for()
    assert tab.run("transfer") == "Done: 1 there already."

    thrown = throw(server)
    headers = {"Origin": "https://behind.a.proxy", "X-Forwarded-Host": "behind.a.proxy"}
    assert "deleted for good" in ask(server, "empty_trash", [token(config(server))], headers)
    assert not thrown.exists()


@pytest.mark.parametrize("taken", [10_000 * "[" + 10_000 * "]", "{", None, 900 * [0]])
def test_settings_of_txt2img_that_are_none_are_told_in_a_sentence(target: Server, taken: Any) -> None:
    answer = ask(target, "take", [token(config(target)), taken])
    assert "could not be read, so nothing was changed" in answer


def test_a_list_in_place_of_a_text_is_no_error_of_the_server(target: Server) -> None:
    deep: Any = functools.reduce(lambda inner, _: [inner], range(200), 1)
    assert "could not be read" in ask(target, "take", [token(config(target)), deep])
    for event in ("poll", "from_card", "skip", "interrupt", "show", "transfer"):
        _, about = events(config(target))[event]
        ask(target, event, [token(config(target)), *([deep] * (len(about["inputs"]) - 1))])
