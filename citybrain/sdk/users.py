"""The client's calls about people who sign in to the console."""

from __future__ import annotations

from citybrain.core.schemas import IssuedUser, NewUser, User, UserChange
from citybrain.sdk.transport import Transport


class UserCalls(Transport):
    """Let people in, change what they are, let them in no more."""

    def users(self, under: str = "") -> list[User]:
        """People, of all departments or of one and all below it."""
        return self._many(User, "/api/v1/users", under=under)

    def add_user(self, new: NewUser) -> IssuedUser:
        """Let a person in; hand the one-time password over, it is shown once."""
        return self._one(IssuedUser, "POST", "/api/v1/users", json=new.model_dump(mode="json"))

    def change_user(self, name: str, change: UserChange) -> User:
        """Another department, role, level or title."""
        body = change.model_dump(mode="json", exclude_none=True)
        return self._one(User, "PATCH", f"/api/v1/users/{name}", json=body)

    def reset_user(self, name: str) -> IssuedUser:
        """A new one-time password for who lost theirs, or their codes."""
        return self._one(IssuedUser, "POST", f"/api/v1/users/{name}/reset")

    def disable_user(self, name: str) -> User:
        """Let a person in no more."""
        return self._one(User, "POST", f"/api/v1/users/{name}/disable")

    def enable_user(self, name: str) -> User:
        """Let a person in again."""
        return self._one(User, "POST", f"/api/v1/users/{name}/enable")
