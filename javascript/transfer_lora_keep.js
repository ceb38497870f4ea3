// Keeps what a person was at while gradio replaces HTML of ours: where the focus was, which parts were unfolded, and how far
// a table was scrolled. An element of the new HTML is the same one as before if its data attributes and its row say so.
(function() {
    "use strict";

    const {part, visible, calls} = window.transferLora;

    const FOCUSABLE = "button, a, summary, input, [tabindex]";
    const SCROLLER = ".transfer-lora-scroll, .transfer-lora-error ul";

    const block = (element) => element.closest?.("#transfer_lora_root .prose");
    const row = (element) => element.closest("tr")?.cells[0].textContent || "";

    // What an element is known by within its block. The text counts only where there is nothing better, because it may change.
    function identity(element) {
        const own = Object.entries(element.dataset);
        const text = own.length || element.matches(SCROLLER) ? "" : element.textContent;
        const alike = [element.tagName, JSON.stringify(own), row(element), text].join("\n");
        const fold = element.tagName === "SUMMARY" ? "" : element.closest("details")?.querySelector("summary")?.textContent;
        return [alike, fold || "", element.tagName === "DIV" ? element.querySelector("table")?.id : ""].join("\n");
    }

    const key = (of) => of.closest("[id^=transfer_lora_]").id;
    const all = (of, selector) => Array.from(of.querySelectorAll(selector));
    const twin = (of, selector, known) => all(of, selector).find((element) => identity(element) === known);

    let focused = null;
    // By block: whether a part is unfolded, and how far something is scrolled.
    const folds = new Map();
    const scrolled = new Map();

    function remember(store, of, element, value) {
        if (!store.has(key(of))) store.set(key(of), new Map());
        store.get(key(of)).set(identity(element), value);
    }

    document.addEventListener("focusin", function({target}) {
        const of = block(target);
        focused = of && {element: target, of: key(of), known: identity(target), row: row(target)};
    });
    // A click beside everything takes the focus away on purpose.
    document.addEventListener("pointerdown", () => {
        focused = null;
    }, true);
    document.addEventListener("toggle", function({target}) {
        const of = target.isConnected && target.matches("details") && block(target);
        const summary = of && target.querySelector("summary");
        if (summary) remember(folds, of, summary, target.open);
    }, true);
    document.addEventListener("scroll", function({target}) {
        const of = target.isConnected && target.matches?.(SCROLLER) && block(target);
        if (of) remember(scrolled, of, target, [target.scrollLeft, target.scrollTop]);
    }, true);

    function restore(of) {
        const open = folds.get(key(of));
        for (const summary of open ? all(of, "details > summary") : []) {
            const known = open.get(identity(summary));
            if (known !== undefined) summary.parentElement.open = known;
        }
        const places = scrolled.get(key(of));
        const scrollers = places ? all(of, SCROLLER) : [];
        // What has gone and comes again is another one.
        if (!scrollers.length) scrolled.delete(key(of));
        for (const element of scrollers) {
            const place = places.get(identity(element));
            if (place) [element.scrollLeft, element.scrollTop] = place;
        }
        if (focused?.of === key(of)) refocus(of);
    }

    function refocus(of) {
        const active = document.activeElement;
        if (active && active !== document.body) return;
        const again = focused.element.isConnected ? focused.element : twin(of, FOCUSABLE, focused.known);
        // A button that is gone, because it was pressed, has neighbours in its row.
        const beside = all(of, FOCUSABLE).find((element) => focused.row && row(element) === focused.row);
        (again || beside)?.focus({preventScroll: true});
    }

    // A button that starts a job gives its place to the one that stops it, and gets it back; so does its focus.
    const BUTTONS = ["buttons", "batch_buttons"];
    let pressed = null;

    document.addEventListener("focusin", function({target}) {
        const where = BUTTONS.map(part).find((buttons) => buttons?.contains(target));
        pressed = where && target.matches(":focus-visible") ? {element: target, where} : null;
    });

    function replace() {
        if (!pressed || visible(pressed.element) || document.activeElement !== document.body) return;
        all(pressed.where, "button").find(visible)?.focus();
    }

    calls.ticks.push(replace);

    const observer = new MutationObserver(function(changes) {
        const changed = new Set(changes.map((change) => block(change.target)).filter((of) => of?.isConnected));
        if (!changed.size) return;
        calls.changed.forEach((call) => call());
        changed.forEach(restore);
    });
    calls.opened.push(() => observer.observe(part("root"), {childList: true, subtree: true}));
})();
