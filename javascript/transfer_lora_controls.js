// Adds what gradio's own controls leave out: for keyboards and screen readers, and for who chooses with a mouse.
(function() {
    "use strict";

    const {part, calls} = window.transferLora;

    const HEAD = "div.label-wrap";

    // gradio 3: the heads of what can be unfolded are no buttons, and the number beside a slider has no name.
    function complete() {
        for (const head of part("root").querySelectorAll(HEAD)) {
            head.role = "button";
            head.tabIndex = 0;
            head.ariaExpanded = String(head.classList.contains("open"));
        }
        for (const number of part("root").querySelectorAll(".head > input[type=number]:not([aria-label])")) {
            number.ariaLabel = number.parentElement.querySelector("label span")?.textContent.trim() || "";
        }
    }

    document.addEventListener("keydown", function(event) {
        const at = (selector) => event.target.matches?.("#transfer_lora_root " + selector);
        // gradio 4 holds the focus for good at the cross of an entry, whose handler takes every key.
        if (event.key === "Tab" && at(".token-remove")) event.stopPropagation();
        if (["Enter", " "].includes(event.key) && at(HEAD)) {
            event.preventDefault();
            event.target.click();
        }
    }, true);
    calls.ticks.push(complete);

    // The list of LoRAs stays open after a choice, for the next one, and covers the target. It closes when the pointer leaves it.
    let picked = false;

    document.addEventListener("pointerdown", function({target}) {
        picked = !!target.closest?.("#transfer_lora_adapters [data-testid=dropdown-option]");
    }, true);
    // Who types goes on looking for another one.
    document.addEventListener("keydown", () => {
        picked = false;
    }, true);
    document.addEventListener("pointerover", function({target, pointerType}) {
        if (!picked || pointerType !== "mouse" || part("adapters").contains(target)) return;
        picked = false;
        if (part("adapters").contains(document.activeElement)) document.activeElement.blur();
    });
})();
