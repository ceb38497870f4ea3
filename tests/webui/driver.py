"""The tab as a person sees it: choose, press, read. Selectors that hold on gradio 3.41 and 4.40 (reference/browser.md)."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Error, Locator, Page

from tests.waiting import until


class Tab:
    """The "Transfer LoRA" tab of an open page."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def theme(self, name: str) -> None:
        """Change to gradio's ``light`` or ``dark`` theme: in both versions it is a class of the body."""
        script = """dark => {
            document.body.classList.toggle("dark", dark);
            document.getAnimations().forEach(each => each.finish());
        }"""
        self.page.evaluate(script, name == "dark")

    def part(self, name: str) -> Locator:
        """The control ``name``. gradio 3 gives an HTML's id to two elements, one in the other."""
        return self.page.locator(f"#transfer_lora_{name}").first

    def ready(self) -> Tab:
        """Wait until the tab's lists are there."""
        self.page.locator("#transfer_lora_root[data-ready=yes]").wait_for()
        return self

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression holds; ``status`` in it is the job's status."""
        found = "const status = document.querySelector('#transfer_lora_status .transfer-lora-status')?.dataset || {};"
        self.page.wait_for_function(f"() => {{ {found} return {condition}; }}")

    def options(self, name: str) -> list[str]:
        """What the list ``name`` offers when it is opened."""
        found = self.open_list(name).evaluate_all("all => all.map(each => each.getAttribute('aria-label'))")
        self.close_list(name)
        return found

    def open_list(self, name: str) -> Locator:
        """Open the list ``name``; its entries. A page that is still busy may miss the first click."""
        options = self.part(name).locator("[data-testid=dropdown-option]")

        def opened() -> bool:
            self.part(name).locator("input").first.click()
            try:
                options.first.wait_for(timeout=5000)
            except Error:
                self.part(name).locator("input").first.blur()
                return False
            return True

        until(opened)
        return options

    def close_list(self, name: str) -> None:
        """Close the list ``name``, which stays open after a choice."""
        self.part(name).locator("input").first.blur()
        self.part(name).locator("[data-testid=dropdown-option]").first.wait_for(state="detached")

    def pick(self, name: str, start: str) -> None:
        """Choose the first entry of the list ``name`` that begins with ``start``; it may be on its way to the page still."""

        def found() -> list[int]:
            labels = self.open_list(name).evaluate_all("all => all.map(each => each.getAttribute('aria-label'))")
            places = [number for number, label in enumerate(labels) if label.startswith(start)]
            if not places:
                self.close_list(name)
            return places

        [place, *_] = until(found)
        options = self.part(name).locator("[data-testid=dropdown-option]")
        options.nth(place).click()
        if options.count():
            self.close_list(name)

    def choose(self, *adapters: str, target: str = "", source: str = "") -> Tab:
        """Choose LoRAs by the beginning of their lines, and wait until the tab has said what they are."""
        for adapter in adapters:
            before = self.part("adapters").locator(".token").count()
            self.pick("adapters", adapter)
            self.part("adapters").locator(".token").nth(before).wait_for()
        if target:
            self.pick("target", target)
            self.page.locator(f'#transfer_lora_target_line [data-target="{target}"]').first.wait_for()
        if source:
            self.pick("source", source)
        rows = min(self.part("adapters").locator(".token").count(), 20)
        self.wait(f"document.querySelectorAll('#transfer_lora_chosen tbody tr').length === {rows}")
        return self

    def press(self, name: str) -> None:
        """Press a button."""
        self.part(name).click()

    def until(self, *states: str) -> str:
        """Wait until the job is in one of ``states``; returns what the status says at that moment."""
        # Both at once: the answer to an earlier question may still arrive, and stand there until the next one.
        found = "document.querySelector('#transfer_lora_status .transfer-lora-status')"
        condition = " || ".join(f"it?.dataset.state === '{state}'" for state in states)
        said = self.page.wait_for_function(
            f"() => {{ const it = {found}; return ({condition}) && {{text: it.innerText}}; }}"
        )
        text = said.json_value()["text"]
        assert isinstance(text, str)
        return text

    def begin(self, button: str) -> None:
        """Press a button that starts a job, and wait until it is another one than the last."""
        job = self.part("job").locator("textarea, input").first
        last = job.input_value()
        self.press(button)
        self.wait(f"document.querySelector('#transfer_lora_job textarea, #transfer_lora_job input').value !== {last!r}")

    def run(self, button: str, *states: str) -> str:
        """Press a button that starts a job, and wait for the job's end and its results."""
        self.begin(button)
        said = self.until(*(states or ("done",)))
        self.results.first.wait_for()
        self.part("details").locator(".transfer-lora-details").first.wait_for()
        return said

    @property
    def results(self) -> Locator:
        """The result of each LoRA of the job."""
        return self.part("overview").locator(".transfer-lora-result")

    def rows(self) -> list[list[str]]:
        """Of each LoRA of the job its name, what became of it, and all that is said of it."""
        script = "all => all.map(it => [it.querySelector('h4').innerText, it.dataset.status, it.innerText])"
        return self.results.evaluate_all(script)

    def answers(self) -> list[str]:
        """The answer for each LoRA of the job."""
        return self.results.locator(".transfer-lora-sentence").all_inner_texts()

    def open_details(self) -> Locator:
        """Unfold the details of a LoRA."""
        details = self.part("details").locator(".transfer-lora-details")
        details.locator("summary").first.click()
        details.locator(".transfer-lora-note").first.wait_for()
        return details

    def shot(self, path: Path) -> None:
        """A picture of the whole page."""
        self.page.screenshot(path=path, full_page=True, animations="disabled")
