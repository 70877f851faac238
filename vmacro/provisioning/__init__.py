"""Brings hosts to what the inventory says, by the playbooks. Desired state only: moving guests is not Ansible's."""
