"""How several processes train one model. Each strategy wraps the model; `prepare` picks one."""
