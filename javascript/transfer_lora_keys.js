// Adds what gradio 3 leaves out for keyboards and screen readers: the heads of what can be unfolded are no buttons there, and the
// number beside a slider has no name.
(function() {
    "use strict";

    const {part, calls} = window.transferLora;

    const HEAD = "div.label-wrap";

    function complete() {
        for (const head of part("root").querySelectorAll(HEAD)) {
            head.role = "button";
            head.tabIndex = 0;
            head.ariaExpanded = String(head.classList.contains("open"));
        }
        for (const number of part("root").querySelectorAll(".head > input[type=number]:not([aria-label])")) {
            number.ariaLabel = number.parentElement.querySelector("label")?.textContent.trim() || "";
        }
    }

    document.addEventListener("keydown", function(event) {
        if (!["Enter", " "].includes(event.key) || !event.target.matches?.("#transfer_lora_root " + HEAD)) return;
        event.preventDefault();
        event.target.click();
    });
    calls.ticks.push(complete);
})();
