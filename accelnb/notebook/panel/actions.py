"""What can be done with a configuration: test it, use it now, save it."""

from __future__ import annotations

from accelnb.notebook.panel.elements import Action, Message, box, button
from accelnb.notebook.panel.form import Form
from accelnb.notebook.panel.self_test import SelfTest
from accelnb.notebook.session import Session
from accelnb.options.config import ConfigError, LaunchConfig, to_line
from accelnb.options.config_file import FILE, read_file, write_file

_HINT = (
    "Test tries it on ranks of its own. Use now is for this session. "
    f"Save writes {FILE} beside the notebook."
)


class Actions:
    """The buttons below the form.

    Parameters
    ----------
    session
        What Use now and Save change.
    form
        Where the configuration is chosen.
    message
        Where each action says what came of it.
    on_tested
        Called when a test is over, in its thread.
    """

    def __init__(self, session: Session, form: Form, message: Message, on_tested: Action) -> None:
        self._on_tested = on_tested
        self._session, self._form, self._message = session, form, message
        self._test = button("Test", "try this configuration on ranks of its own")
        self._use = button("Use now", "make it the default of this session's cells")
        self._save = button("Save", f"write {FILE} beside the notebook")
        self._save.add_class("accelnb-primary")
        self.self_test = SelfTest(message, self._test_ended)
        self._asked_to_replace = False
        for one, action in (
            (self._test, self._on_test),
            (self._use, self._on_use),
            (self._save, self._on_save),
        ):
            one.on_click(message.guard(action))
        self.widget = box(self._test, self._use, self._save, message.widget, kind="actions")
        self.on_change()

    def on_change(self) -> None:
        """Take note that another configuration is chosen: what was said was of the last one."""
        self._ask_to_replace(False)
        wrong = self._form.draft.first_error
        self._use.disabled = self._save.disabled = wrong is not None
        if self.self_test.is_running:
            return  # its button cancels it, and its verdict names what it tests
        self.self_test.clear()
        self._test.disabled = wrong is not None
        self._message.say(wrong or _HINT, "bad" if wrong else "quiet")

    def _on_test(self) -> None:
        if self.self_test.is_running:
            self.self_test.cancel()
            return
        self.self_test.start(self._form.draft.config)
        self._test.description, self._test.tooltip = "Cancel", "end the test"

    def _test_ended(self) -> None:
        self._test.description, self._test.tooltip = "Test", "try this configuration again"
        self._on_tested()
        self._test.disabled = self._form.draft.first_error is not None

    def _on_use(self) -> None:
        config = self._form.draft.config
        self._session.use(config)
        self._message.say(f"This session uses {to_line(config) or 'the defaults'}.")

    def _on_save(self) -> None:
        config, path = self._form.draft.config, self._session.settings.path
        if path.exists() and not self._asked_to_replace:
            try:
                read_file(path)
            except ConfigError as error:
                self._ask_to_replace(True)
                self._message.say(f"{error}. Replace the file?", "bad")
                return
        write_file(path, config)
        self._ask_to_replace(False)
        self._follow_file(config)
        self._message.say(f"Saved to {path}: the default of cells in this folder.")

    def _ask_to_replace(self, asked: bool) -> None:
        self._asked_to_replace = asked
        self._save.description = "Replace it" if asked else "Save"

    def _follow_file(self, config: LaunchConfig) -> None:
        """Let the file say what this session uses, if it can say all of it."""
        self._session.settings.chosen = None
        self._session.settings.ignores_file = False
        if self._session.defaults() != config:  # a kernel with options of its own
            self._session.use(config)
