"""What the WebUI runs at its start, and again at every "Reload UI"."""

from lib_lora.hosts.webui import extension


def make_page():
    from lib_lora.ui.page import make_page

    return make_page()


def add_routes(app, queue, door):
    from lib_lora.api.app import add_routes
    from lib_lora.api.guard import Guard, accounts
    from lib_lora.api.studio import Studio

    guard = Guard(page=door.page, api=door.api, accounts=accounts(door.api_auth, field="api_auth"), names=door.names)
    add_routes(app, Studio(queue.host, queue), guard)


extension.register(make_page, add_routes)
