"""What is configured about a token reaches those who use it."""

from __future__ import annotations

from keyd.config.settings import Settings, TokenSettings
from keyd.daemon.assemble import token_configs

CHANGED = {
    "name": "hsm",
    "module": "/usr/lib/module.so",
    "uri": "pkcs11:token=keyd",
    "pin_source": "file:/etc/keyd/pin",
    "sessions": 7,
    "module_sha256": "0" * 64,
    "module_parameters": "configdir='sql:/var/lib/keyd/nss'",
    "waive_local": True,
    "sandbox": "network",
    "sign_timeout_s": 3.5,
    "generate_timeout_s": 45.0,
    "open_timeout_s": 6.5,
    "environment": {"NAME": "value"},
}


def test_every_setting_of_a_token_is_handed_on() -> None:
    document = {
        "daemon": {"ledger": "/l", "anchor": "/a", "development": True},
        "policy": {"file": "/p"},
        "token": [CHANGED],
    }
    settings = Settings.model_validate(document)
    [config] = token_configs(settings)
    assert CHANGED.keys() == TokenSettings.model_fields.keys()
    for name in CHANGED:
        assert getattr(config, name) == getattr(settings.token[0], name)
    assert config.development
