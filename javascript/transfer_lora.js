// What the server cannot do is done by the scripts of this folder. All requests go through hidden buttons of our own.
// This one is loaded first. It finds our controls, writes into them, presses them, and calls the others: once when the tab is
// first looked at, whenever it is looked at again, and at every tick of a clock.
window.transferLora = (function() {
    "use strict";

    const POLL_MS = 400;

    const app = () => (typeof window.gradioApp === "function" ? window.gradioApp() : document);
    const part = (name) => app().querySelector("#transfer_lora_" + name);
    const visible = (element) => !!element && element.offsetParent !== null;

    function press(name) {
        const element = part(name);
        const button = element && (element.tagName === "BUTTON" ? element : element.querySelector("button"));
        if (button) button.click();
    }

    function write(name, text) {
        const field = part(name)?.querySelector("textarea, input");
        if (!field) return;
        field.value = text;
        field.dispatchEvent(new Event("input", {bubbles: true}));
    }

    const read = (name) => part(name)?.querySelector("textarea, input")?.value || "";

    function openTab(name) {
        const tabs = app().querySelector("#tabs");
        const page = tabs?.querySelector("#tab_" + name);
        const pages = Array.from(tabs?.children || []).filter((child) => child.id.startsWith("tab_"));
        const buttons = tabs?.querySelectorAll(":scope > .tab-nav > button") || [];
        buttons[pages.indexOf(page)]?.click();
    }

    // The scripts to call. Those of "always" are called while the tab is out of sight too, and those of "changed" as soon as HTML of
    // ours was replaced, before it is seen.
    const calls = {opened: [], again: [], ticks: [], always: [], changed: []};

    // What is done at a click on an element of our HTML, by the value of its data-transfer-lora; it gets the element.
    const actions = {};

    document.addEventListener("click", function(event) {
        const button = event.target.closest && event.target.closest("[data-transfer-lora]");
        const action = button && actions[button.dataset.transferLora];
        if (!action) return;
        event.stopPropagation();
        event.preventDefault();
        action(button);
    }, true);

    let opened = false;
    let seen = false;

    function tick() {
        const root = part("root");
        if (!root) return;
        calls.always.forEach((call) => call());
        if (!visible(root)) {
            seen = false;
            return;
        }
        if (!opened) {
            opened = true;
            calls.opened.forEach((call) => call());
        } else if (!seen) {
            calls.again.forEach((call) => call());
        }
        seen = true;
        view(root);
        // While it waits for the server, gradio 3 writes the seconds into the line.
        if (!root.dataset.ready && part("target_line")?.querySelector("[class^=transfer-lora]")) root.dataset.ready = "yes";
        calls.ticks.forEach((call) => call());
    }

    // Which view is open; our style sheet hides what belongs to the other one.
    function view(root) {
        const name = visible(part("batch_folder")) ? "batch" : "transfer";
        if (root.dataset.view === name) return;
        root.dataset.view = name;
        if (name === "batch" && !root.dataset.batch) {
            root.dataset.batch = "yes";
            press("batch_open");
        }
    }

    // Something else may have changed the checkpoint while the person was in another window.
    window.addEventListener("focus", () => opened && visible(part("root")) && calls.again.forEach((call) => call()));

    setInterval(tick, POLL_MS);

    return {app, part, visible, press, write, read, openTab, calls, actions};
})();
