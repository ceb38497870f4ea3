// Shows a picture of a comparison large: a click or Enter opens it, Escape or a click closes it, the arrow keys go through the row.
(function() {
    "use strict";

    const {actions} = window.transferLora;

    function show(dialog, button) {
        const picture = button.querySelector("img");
        dialog.querySelector("img").src = picture.src;
        dialog.querySelector("img").alt = picture.alt;
        dialog.querySelector("p").textContent = picture.alt;
        dialog.setAttribute("aria-label", picture.alt);
    }

    actions.enlarge = function(opened) {
        const buttons = Array.from(opened.closest(".transfer-lora-row").querySelectorAll("[data-transfer-lora=enlarge]"));
        let place = buttons.indexOf(opened);
        const dialog = document.createElement("dialog");
        dialog.className = "transfer-lora-large";
        const close = document.createElement("button");
        close.type = "button";
        close.textContent = "Close";
        close.className = "transfer-lora-small";
        dialog.append(document.createElement("img"), document.createElement("p"), close);
        show(dialog, opened);
        dialog.addEventListener("click", () => dialog.close());
        // The WebUI's own shortcuts would act on what is behind it.
        dialog.addEventListener("keydown", function(event) {
            event.stopPropagation();
            const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
            if (!step) return;
            place = (place + step + buttons.length) % buttons.length;
            show(dialog, buttons[place]);
        });
        // It gives the focus back to the button that it was opened with.
        dialog.addEventListener("close", () => dialog.remove());
        document.body.append(dialog);
        dialog.showModal();
    };
})();
