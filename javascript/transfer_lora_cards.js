// Adds a button to every LoRA card of the WebUI, which chooses that LoRA in the tab.
(function() {
    "use strict";

    const {app, part, press, write, openTab, actions, calls} = window.transferLora;

    const TITLE = "Transfer this LoRA to another checkpoint";

    function addCardButtons() {
        for (const where of ["txt2img", "img2img"]) {
            const cards = "#" + where + "_lora_cards .card:not([data-transfer-lora-seen])";
            for (const card of app().querySelectorAll(cards)) {
                card.dataset.transferLoraSeen = "yes";
                const row = card.querySelector(".button-row");
                if (!row || !card.dataset.name) continue;
                const button = document.createElement("div");
                button.className = "card-button transfer-lora-card";
                button.title = TITLE;
                button.textContent = "⇄";
                button.dataset.transferLora = "card";
                button.dataset.name = card.dataset.name;
                row.insertBefore(button, row.firstChild);
            }
        }
    }

    actions.card = function(button) {
        write("card", button.dataset.name);
        openTab("transfer_lora");
        const view = part("views")?.querySelector(":scope > .tab-nav > button");
        view?.click();
        view?.focus({preventScroll: true});
        setTimeout(() => press("from_card"), 100);
    };
    calls.always.push(addCardButtons);
})();
